# The image that all processes run. Tags cannot be moved: a run is of one build.

resource "aws_ecr_repository" "highwater" {
  name                 = "highwater"
  image_tag_mutability = "IMMUTABLE"
  force_delete         = true

  image_scanning_configuration {
    scan_on_push = true
  }
}

resource "aws_ecr_lifecycle_policy" "highwater" {
  repository = aws_ecr_repository.highwater.name

  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "The last ten builds"
      selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 10 }
      action       = { type = "expire" }
    }]
  })
}
