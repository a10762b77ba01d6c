# What a host may do: what is listed here, and nothing else of this account.

locals {
  bucket_arn = "arn:${data.aws_partition.this.partition}:s3:::${var.bucket}"

  # `run` reads what it is told to do (Systems Manager), and a process writes state and results.
  statements = {
    list = {
      Effect   = "Allow"
      Action   = ["s3:ListBucket"]
      Resource = [local.bucket_arn]
      # IfExists: without the right to list, an object that is not there is "forbidden" instead of "not found", and a
      # request for an object has no prefix.
      Condition = {
        StringLikeIfExists = { "s3:prefix" = ["state/${var.name}/*", "output/${var.name}/*", "data/dims/*"] }
      }
    }
    read = {
      Effect   = "Allow"
      Action   = ["s3:GetObject"]
      Resource = ["${local.bucket_arn}/data/dims/*", "${local.bucket_arn}/${local.config_key}"]
    }
    # Objects are deleted when recorded epochs are older than --history, and by --replace-output.
    write = {
      Effect = "Allow"
      Action = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
      Resource = [
        "${local.bucket_arn}/state/${var.name}/*",
        "${local.bucket_arn}/output/${var.name}/*",
      ]
    }
    secrets = {
      Effect   = "Allow"
      Action   = ["secretsmanager:GetSecretValue"]
      Resource = [aws_secretsmanager_secret.kafka.arn, aws_secretsmanager_secret.cluster.arn]
    }
    decrypt = {
      Effect   = "Allow"
      Action   = ["kms:Decrypt"]
      Resource = [aws_kms_key.secrets.arn]
    }
    login = {
      Effect   = "Allow"
      Action   = ["ecr:GetAuthorizationToken"]
      Resource = ["*"] # it takes no other
    }
    pull = {
      Effect   = "Allow"
      Action   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
      Resource = [local.repository_arn]
    }
    logs = {
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
      Resource = ["${aws_cloudwatch_log_group.this.arn}:*"]
    }
    # The part of AmazonSSMManagedInstanceCore that Run Command and sessions use; none of it takes a resource.
    manage = {
      Effect = "Allow"
      Action = [
        "ssm:UpdateInstanceInformation",
        "ssmmessages:CreateControlChannel",
        "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel",
        "ssmmessages:OpenDataChannel",
        "ec2messages:AcknowledgeMessage",
        "ec2messages:DeleteMessage",
        "ec2messages:FailMessage",
        "ec2messages:GetEndpoint",
        "ec2messages:GetMessages",
        "ec2messages:SendReply",
      ]
      Resource = ["*"]
    }
  }

  # ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME@sha256:DIGEST
  image          = regex("^(?P<account>[0-9]+)\\.dkr\\.ecr\\.(?P<region>[a-z0-9-]+)\\.[^/]+/(?P<name>[^@]+)@", var.image)
  repository_arn = "arn:${data.aws_partition.this.partition}:ecr:${local.image.region}:${local.image.account}:repository/${local.image.name}"
}

data "aws_partition" "this" {}

resource "aws_iam_role" "host" {
  name = "highwater-${var.name}"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ec2.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy" "host" {
  name = "highwater"
  role = aws_iam_role.host.id

  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [for name, statement in local.statements : merge({ Sid = name }, statement)]
  })
}

resource "aws_iam_instance_profile" "host" {
  name = "highwater-${var.name}"
  role = aws_iam_role.host.name
}
