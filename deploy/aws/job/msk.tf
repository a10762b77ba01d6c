# Three brokers, three copies of everything, two of which must have a message before it counts.
#
# Clients log in with SASL/SCRAM over TLS: librdkafka speaks that by itself, while MSK's other way, IAM, needs a
# signature for each connection that only clients with AWS's own code can make.

locals {
  kafka_port = 9096
  kafka_user = "highwater"
}

resource "aws_msk_configuration" "this" {
  name           = "highwater-${var.name}"
  kafka_versions = [var.kafka_version]

  # offsets.retention.minutes: the committed epochs of exactly-once topics are offsets of groups. They must outlive
  # the longest rest of a job: 30 days.
  server_properties = <<-EOT
    auto.create.topics.enable=false
    default.replication.factor=3
    min.insync.replicas=2
    num.partitions=4
    offsets.retention.minutes=43200
    offsets.topic.replication.factor=3
    transaction.state.log.min.isr=2
    transaction.state.log.replication.factor=3
    unclean.leader.election.enable=false
  EOT
}

resource "aws_msk_cluster" "this" {
  cluster_name           = "highwater-${var.name}"
  kafka_version          = var.kafka_version
  number_of_broker_nodes = length(var.zones)

  broker_node_group_info {
    instance_type   = var.broker_type
    client_subnets  = [for letter in var.zones : aws_subnet.private[letter].id]
    security_groups = [aws_security_group.brokers.id]

    storage_info {
      ebs_storage_info {
        volume_size = var.broker_disk_gib
      }
    }
  }

  configuration_info {
    arn      = aws_msk_configuration.this.arn
    revision = aws_msk_configuration.this.latest_revision
  }

  client_authentication {
    unauthenticated = false

    sasl {
      scram = true
    }
  }

  encryption_info {
    encryption_in_transit {
      client_broker = "TLS"
      in_cluster    = true
    }
  }
}

resource "aws_msk_scram_secret_association" "this" {
  cluster_arn     = aws_msk_cluster.this.arn
  secret_arn_list = [aws_secretsmanager_secret.kafka.arn]

  depends_on = [aws_secretsmanager_secret_version.kafka]
}
